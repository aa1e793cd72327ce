//! The refresh worker: brings the indexes of a dataset up to date by building a new generation of
//! each beside the one that answers. Searches go on meanwhile; the catalog swaps.

use async_trait::async_trait;
use lakehouse_journal::{
    model::{
        ErrorKind,
        catalog::{CatalogCommand, Generation},
    },
    record::Seq,
};
use tokio::sync::oneshot;

use crate::{
    error::{LakeError, PortError},
    lake::Lake,
    owner::Caller,
    worker::Duty,
};

/// Between two looks at whether a generation is there.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(50);

/// What a refresh did.
#[derive(Debug, Clone)]
pub struct Refreshed {
    /// The generations that answer now, one an index.
    pub generations: Vec<(String, Generation)>,
    /// Position of the catalog after the last swap.
    pub seq: Seq,
}

/// A dataset to refresh, with the way back.
pub(crate) struct RefreshTask {
    pub dataset: String,
    pub caller: Caller,
    pub reply: oneshot::Sender<Result<Refreshed, LakeError>>,
}

/// The worker's duty.
pub(crate) struct RefreshDuty {
    pub lake: Lake,
}

#[async_trait]
impl Duty for RefreshDuty {
    type Task = RefreshTask;

    async fn run(&self, task: RefreshTask) {
        let result = self.refresh(&task.dataset, &task.caller).await;
        let _ = task.reply.send(result);
    }
}

impl RefreshDuty {
    async fn refresh(&self, dataset: &str, caller: &Caller) -> Result<Refreshed, LakeError> {
        let snapshot = self.lake.catalog();
        snapshot.state.dataset(dataset)?;
        let names: Vec<String> = snapshot
            .state
            .indexes_over(dataset)
            .map(|index| index.name.clone())
            .collect();
        let mut generations = Vec::new();
        for name in names {
            let command = CatalogCommand::RequestGeneration {
                index: name.clone(),
                config: None,
            };
            let caller = Caller {
                idempotency: None,
                ..caller.clone()
            };
            self.lake.ask_catalog(command, caller).await?;
            generations.push((name.clone(), self.built(&name).await?));
        }
        Ok(Refreshed {
            generations,
            seq: self.lake.catalog().seq,
        })
    }

    /// Waits until the build that is due has ended.
    async fn built(&self, name: &str) -> Result<Generation, LakeError> {
        loop {
            let snapshot = self.lake.catalog();
            let index = snapshot.state.index(name)?;
            if index.building.is_none() {
                if let Some((_, error)) = &index.failed {
                    let text = format!("index `{name}` could not be built: {error}");
                    return Err(
                        PortError::new(ErrorKind::Unprocessable, "build_failed", text).into(),
                    );
                }
                if let Some(generation) = index.live_generation() {
                    return Ok(generation.clone());
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
