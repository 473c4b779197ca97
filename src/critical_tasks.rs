//! Critical tasks: a replica stops when one of them panics, since it would stop working while it reports that it is ready.

use tokio::sync::watch;

/// The critical tasks of one replica. Cheap to clone: they are shared.
#[derive(Clone, Debug, Default)]
pub struct CriticalTasks {
    /// Which one panicked first, and why.
    panicked: watch::Sender<Option<String>>,
}

impl CriticalTasks {
    /// Spawns one. `name` is how its panic is reported: "the NAME failed".
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let (task, panicked) = (tokio::spawn(task), self.panicked.clone());
        tokio::spawn(async move {
            if let Err(error) = task.await
                && error.is_panic()
            {
                panicked.send_if_modified(|first| {
                    let is_first = first.is_none();
                    first.get_or_insert_with(|| format!("the {name} failed: {error}"));
                    is_first
                });
            }
        });
    }

    /// Waits until one of them has panicked, and returns which one and why.
    pub async fn panicked(&self) -> String {
        let mut panicked = self.panicked.subscribe();
        match panicked.wait_for(Option::is_some).await.map(|why| why.clone()) {
            Ok(Some(why)) => why,
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_panic_is_reported_with_its_task_and_an_end_is_none() {
        let tasks = CriticalTasks::default();
        tasks.spawn("first", async {});
        tasks.spawn("second", async { panic!("broken") });
        let why = tasks.panicked().await;
        assert!(why.starts_with("the second failed: ") && why.contains("broken"), "{why}");
    }
}
