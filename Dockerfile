FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o /out/colophon ./cmd/colophon
# Directories that the empty image lacks: the data, and temporary files.
RUN mkdir -p /out/writable/data /out/writable/tmp && chmod 1777 /out/writable/tmp

# One static program, certificates for what it calls, and nothing else: no shell,
# no package manager. There is no HEALTHCHECK for the same reason; ask GET
# /healthz and /readyz from outside, as an orchestrator does.
FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build --chown=65532:65532 /out/writable/ /
COPY --from=build /out/colophon /
COPY LICENSE /
USER 65532:65532
ENV COLOPHON_DATA=/data COLOPHON_LISTEN=0.0.0.0:8000
VOLUME /data
EXPOSE 8000
ENTRYPOINT ["/colophon"]
# Needs DATABASE_URL: there is no PostgreSQL in the image to start.
CMD ["up"]
