//! An object that arrives in parts: into a staging file, which is flushed and renamed when the last
//! part is in. Made by `DurableLocal`; an upload that is dropped leaves nothing behind.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::Arc,
};

use async_trait::async_trait;
use object_store::{MultipartUpload, PutMode, PutPayload, PutResult, Result, UploadPart};

use super::local::{DurableLocal, blocking, io_error};

/// One upload in progress.
#[derive(Debug)]
pub(super) struct LocalUpload {
    file: Arc<File>,
    staged: Option<PathBuf>,
    target: PathBuf,
    offset: u64,
}

impl LocalUpload {
    pub(super) fn new(file: File, staged: PathBuf, target: PathBuf) -> Self {
        Self {
            file: Arc::new(file),
            staged: Some(staged),
            target,
            offset: 0,
        }
    }
}

#[async_trait]
impl MultipartUpload for LocalUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let mut at = self.offset;
        self.offset += data.content_length() as u64;
        let file = Arc::clone(&self.file);
        Box::pin(blocking(move || {
            for part in &data {
                file.write_all_at(part, at).map_err(io_error)?;
                at += part.len() as u64;
            }
            Ok(())
        }))
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let Some(staged) = self.staged.take() else {
            return Err(finished());
        };
        let (file, target) = (Arc::clone(&self.file), self.target.clone());
        blocking(move || {
            let published = file
                .sync_all()
                .and_then(|()| DurableLocal::publish(&staged, &target, &PutMode::Overwrite));
            if published.is_err() && staged.exists() {
                fs::remove_file(&staged).map_err(io_error)?;
            }
            published.map_err(io_error)
        })
        .await?;
        Ok(PutResult {
            e_tag: None,
            version: None,
        })
    }

    async fn abort(&mut self) -> Result<()> {
        let Some(staged) = self.staged.take() else {
            return Err(finished());
        };
        blocking(move || fs::remove_file(staged).map_err(io_error)).await
    }
}

impl Drop for LocalUpload {
    fn drop(&mut self) {
        if let Some(staged) = self.staged.take()
            && let Err(error) = fs::remove_file(&staged)
        {
            tracing::warn!(%error, "a staging file of a dropped upload stays until the next sweep");
        }
    }
}

fn finished() -> object_store::Error {
    object_store::Error::Generic {
        store: "DurableLocal",
        source: "the upload is already finished".into(),
    }
}
