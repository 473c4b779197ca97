//! Work that waits for the disk: done off the threads of the runtime, which have others to serve.

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::{JoinHandle, spawn_blocking};

/// Has the work done off the runtime's threads.
///
/// A runtime of one thread has it done in its turn, as one task among the others. A simulation is such a runtime: nothing
/// of it runs beside it, so that the order of all that happens follows from its seed.
pub fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => tokio::spawn(async move { work() }),
        _ => spawn_blocking(work),
    }
}
