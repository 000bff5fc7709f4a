//! What a session costs a request: run `cargo bench -p cloakroom-benches`.
