//! The buckets of KV, as a verification looks at them.

use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{Context, GetStreamError, GetStreamErrorKind};
use async_nats::jetstream::stream::Stream;
use tokio::time::sleep;

/// A bucket has no leader for some seconds after a node of NATS was lost, and nobody answers for it meanwhile. So often it is
/// asked for before that counts as an answer.
const CONFIRMATIONS: u32 = 4;
const CONFIRM_EVERY: Duration = Duration::from_secs(1);

/// The stream of a bucket; `None` when there is no such bucket.
pub(super) async fn find(context: &Context, name: String) -> Result<Option<Stream>, GetStreamError> {
    let mut asked = 1;
    loop {
        match context.get_stream(&name).await {
            Ok(found) => return Ok(Some(found)),
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                    return Ok(None);
                }
                GetStreamErrorKind::Request if asked < CONFIRMATIONS => sleep(CONFIRM_EVERY).await,
                _ => return Err(error),
            },
        }
        asked += 1;
    }
}
