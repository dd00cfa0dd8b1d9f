// Starts Swagger UI. This is a separate file because the page's content security
// policy allows no script inside the page.
"use strict";

const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();

SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0, // each operation shows its own schemas
  persistAuthorization: false, // access tokens stay in the memory of this page
  validatorUrl: null, // the badge would send the service's address to another server
});
