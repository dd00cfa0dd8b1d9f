FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o /out/colophon ./cmd/colophon
# The empty image lacks directories for data and for temporary files.
RUN mkdir -p /out/writable/data /out/writable/tmp && chmod 1777 /out/writable/tmp

# The image holds one static program and the certificates of authorities. Without a
# shell it cannot have a HEALTHCHECK: call GET /healthz and /readyz from outside.
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
# up needs DATABASE_URL, because the image has no Postgres.
CMD ["up"]
