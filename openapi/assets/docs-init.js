// Starts Swagger UI. A file of its own, because the page's content security
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
  persistAuthorization: false, // an access token lives in this page's memory, and goes with it
  validatorUrl: null, // the badge would send our address to somebody else's server
});
