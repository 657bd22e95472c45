// Node's own server, which writes down what it made of each request.
"use strict";
const fs = require("fs");
const http = require("http");
const log = fs.openSync(process.env.ORIGIN_LOG, "a");
const server = http.createServer((request, response) => {
  let size = 0;
  request.on("data", (data) => (size += data.length));
  request.on("end", () => {
    const address = new URL(request.url, "http://a.example");
    let path = address.pathname;
    try {
      path = decodeURIComponent(path);
    } catch (error) {
      // Escapes of no UTF-8: an application sees the path as it is.
    }
    const seen = { method: request.method, path, query: address.search.slice(1), headers: request.headers, body: size };
    fs.writeSync(log, JSON.stringify(seen) + "\n");
    response.setHeader("Content-Type", "application/json");
    response.end('{"ErrorCode":"Ok"}');
  });
});
server.listen(Number(process.argv[2]), "127.0.0.1");
