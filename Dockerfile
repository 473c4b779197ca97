# Tidings as an image: one binary that joins a NATS cluster (docker-compose.yml shows a whole one).
# No nats-server is inside: a container runs a replica, and the log lives elsewhere.

# The version is rust-version in Cargo.toml.
FROM rust:1.95-slim-trixie AS build
WORKDIR /src

# Only what the build reads. The binary embeds definitions from nats/ and schemas/.
COPY Cargo.toml Cargo.lock build.rs ./
# A member of the workspace, which cargo wants to know of and does not build.
COPY bench/Cargo.toml bench/
COPY src src
COPY nats nats
COPY schemas schemas

# The caches are not part of the image, so the binary is copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --locked --release --bin tidings && install -D target/release/tidings /out/tidings


# The same Debian as the builder's: the binary is linked to its C library.
FROM debian:trixie-slim

# For TLS to NATS. /data and /keys belong to the user that runs, and new volumes take that over.
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && install --directory --owner 65532 --group 65532 --mode 0700 /data /keys

COPY --from=build /out/tidings /usr/local/bin/tidings

LABEL org.opencontainers.image.title="Tidings" \
      org.opencontainers.image.description="One announcement to every connected user, on an event log that anybody can check." \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"

# Loopback inside a container reaches nobody.
ENV TIDINGS_LISTEN=0.0.0.0:8000 TIDINGS_DATA_DIR=/data

# A number and no name, so that an orchestrator can see that it is not root.
USER 65532:65532
VOLUME /data
EXPOSE 8000

# SIGTERM drains: give it the time (docker stop --time 50).
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s CMD ["tidings", "admin", "health"]

ENTRYPOINT ["tidings"]
CMD ["serve"]
