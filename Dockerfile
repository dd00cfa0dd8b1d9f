FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o /out/colophon ./cmd/colophon
# The empty image has no directories for data and for temporary files.
RUN mkdir -p /out/writable/data /out/writable/tmp && chmod 1777 /out/writable/tmp

# The image has one static program and the certificates of certificate authorities. It
# has no shell, so it cannot have a HEALTHCHECK. Call GET /healthz and /readyz from
# outside.
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
# The command up needs DATABASE_URL here, because the image has no Postgres.
CMD ["up"]
