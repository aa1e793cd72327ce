//! Evaluation sets on their way into the catalog: nobody sweeps a dataset's leftovers between the
//! moment a set lies in its bucket and the event that points at it.

use std::future::Future;

use lakehouse_journal::model::catalog::{CatalogCommand, EvalSpec, QualityCommand};

use crate::{
    error::LakeError,
    lake::Lake,
    owner::{Caller, Committed},
};

impl Lake {
    /// Has a set over `dataset` drawn and keeps it under a name.
    ///
    /// # Errors
    /// What `draw` says; [`LakeError`] when the dataset or the index is gone, or when rows were
    /// deleted meanwhile.
    pub async fn keep_eval<E: From<LakeError>>(
        &self,
        dataset: &str,
        eval: String,
        draw: impl Future<Output = Result<EvalSpec, E>>,
        caller: Caller,
    ) -> Result<Committed, E> {
        let id = match self.catalog().state.dataset(dataset) {
            Ok(dataset) => dataset.id.clone(),
            Err(error) => return Err(LakeError::from(error).into()),
        };
        let _publishing = self.inner.publishing.pass(&id).await;
        let spec = draw.await?;
        let command = QualityCommand::RecordEval { eval, spec };
        let command = CatalogCommand::Quality(command);
        Ok(self.ask_catalog(command, caller).await?)
    }
}
