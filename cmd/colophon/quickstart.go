package main

// quickStart is the text that `up` prints when it is ready.
const quickStart = `
Open %[1]s in a browser, read %[1]s/docs, or paste this:

  base=%[1]s
  curl -s $base/users -H 'Content-Type: application/json' -d '{"username":"isaac","password":"opticks-1704"}'
  access=$(curl -s $base/token -d username=isaac -d password=opticks-1704 | sed 's/.*"access_token":"\([^"]*\)".*/\1/')
  curl -s $base/generate -H "Authorization: Bearer $access" -H 'Content-Type: application/json' -d '{"prompt":"The nature of light"}'
  curl -s $base/history -H "Authorization: Bearer $access"

`
