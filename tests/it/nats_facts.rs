//! nats_facts
