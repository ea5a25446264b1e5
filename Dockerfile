# The headcount service as an image, with only glibc and the root certificates for HTTPS.
#
#   docker build -t headcount .
#   docker run --rm -p 127.0.0.1:9464:9464 -v "$PWD/headcount.toml:/etc/headcount/headcount.toml:ro" headcount
#
# No init is needed: as PID 1, headcount forwards signals, reaps orphans, and stops its processes in order.
# The file uses only features of the classic builder, so docker-compose 1.29 can build it.
ARG RUST_IMAGE=rust:1.95-slim-bookworm
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${RUST_IMAGE} AS build
WORKDIR /src
COPY . .
# The revision in headcount_build_info: docker build --build-arg REVISION="$(git rev-parse --short HEAD)" .
ARG REVISION=unknown
# The binary keeps its line tables, because reports name files and lines. The state folder is created here because the runtime
# image has no shell; a new volume inherits its owner.
RUN HEADCOUNT_REVISION="${REVISION}" cargo build --release --locked --bin headcount \
    && mkdir -p /made/state /made/etc \
    && target/release/headcount config --default \
        | sed 's/^listen = "127.0.0.1:9464"$/listen = "0.0.0.0:9464"/' >/made/etc/headcount.toml \
    && target/release/headcount check /made/etc/headcount.toml

FROM ${RUNTIME_IMAGE}
COPY --from=build /src/target/release/headcount /usr/local/bin/headcount
COPY --from=build /made/etc/ /etc/headcount/
COPY --from=build --chown=65532:65532 /made/state/ /var/lib/headcount/
# The state folder: mount a volume here, so that the next run knows how this one ended.
ENV STATE_DIRECTORY=/var/lib/headcount
USER 65532:65532
EXPOSE 9464
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["headcount", "probe", "http://127.0.0.1:9464/readyz"]
ENTRYPOINT ["headcount"]
CMD ["run", "/etc/headcount/headcount.toml"]
