//! Many texts, as few of them sent as can be: each different text once, none whose vector is kept,
//! and every finished batch durable before the next is waited for. Builds and refreshes call it.

use std::{
    collections::HashMap,
    ops::{AddAssign, Range},
    sync::Arc,
};

use futures::{StreamExt, stream::FuturesUnordered};
use lakehouse_actors::{
    PortError,
    ports::{EmbedLimits, Embedded, Embedder, Progress, TextVector},
};
use lakehouse_journal::model::ErrorKind;

use super::store::{Kept, TextKey};

/// What was sent for some texts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Texts that were sent.
    pub texts_sent: u64,
    /// Calls of the provider.
    pub calls: u64,
    /// Tokens, where it counts them.
    pub tokens: Option<u64>,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.texts_sent += other.texts_sent;
        self.calls += other.calls;
        if let Some(tokens) = other.tokens {
            *self.tokens.get_or_insert(0) += tokens;
        }
    }
}

/// An embedder with what is kept of its vectors.
#[derive(Clone)]
pub struct Sender {
    /// Who makes the vectors.
    pub embedder: Arc<dyn Embedder>,
    /// Where they are kept, refusals too, when they are worth it.
    pub kept: Option<Kept>,
}

/// A text that is to be sent.
struct Waiting {
    /// Its place among the different texts.
    at: usize,
    key: Option<TextKey>,
}

impl Sender {
    /// What becomes of each text, in their order.
    ///
    /// # Errors
    /// As [`Embedder::embed`]; batches that ended well are kept even then. `Timeout` when `progress`
    /// is cancelled.
    pub async fn embed(
        &self,
        texts: &[String],
        progress: &Progress,
        tally: &mut Tally,
    ) -> Result<Vec<TextVector>, PortError> {
        let limits = self.embedder.limits();
        if !limits.keep {
            // Cheaper than looking up what is kept.
            return self.embed_cheap(texts, &limits, progress, tally).await;
        }
        let (different, places) = different(texts);
        let (mut found, waiting) = self.look_up(&different).await?;
        self.send(&different, waiting, &limits, progress, &mut found, tally)
            .await?;
        let found: Option<Vec<TextVector>> = found.into_iter().collect();
        let found = found.ok_or_else(|| PortError::internal("a text was left out"))?;
        Ok(places.into_iter().map(|at| found[at].clone()).collect())
    }

    async fn embed_cheap(
        &self,
        texts: &[String],
        limits: &EmbedLimits,
        progress: &Progress,
        tally: &mut Tally,
    ) -> Result<Vec<TextVector>, PortError> {
        let mut vectors = Vec::with_capacity(texts.len());
        for batch in cut(texts.len(), limits, |at| texts[at].len()) {
            must_go_on(progress)?;
            let batch = &texts[batch];
            let done = self.embedder.embed(batch).await?;
            *tally += of(&done);
            vectors.extend(done.vectors);
        }
        Ok(vectors)
    }

    async fn look_up(
        &self,
        texts: &[&String],
    ) -> Result<(Vec<Option<TextVector>>, Vec<Waiting>), PortError> {
        let (keys, mut found) = match self.kept.clone() {
            None => (vec![None; texts.len()], vec![None; texts.len()]),
            Some(kept) => {
                let keys: Vec<TextKey> = texts.iter().map(|text| kept.key(text)).collect();
                tokio::task::spawn_blocking(move || {
                    let found = kept.get(&keys)?;
                    let keys: Vec<Option<TextKey>> = keys.into_iter().map(Some).collect();
                    Ok::<_, PortError>((keys, found))
                })
                .await
                .map_err(|error| PortError::internal(error.to_string()))??
            }
        };
        for (text, found) in texts.iter().zip(&mut found) {
            if is_blank(text) {
                *found = Some(blank());
            }
        }
        let missing = found.iter().zip(keys).enumerate();
        let waiting = missing.filter(|(_, (found, _))| found.is_none());
        let waiting = waiting.map(|(at, (_, key))| Waiting { at, key }).collect();
        Ok((found, waiting))
    }

    async fn send(
        &self,
        texts: &[&String],
        waiting: Vec<Waiting>,
        limits: &EmbedLimits,
        progress: &Progress,
        found: &mut [Option<TextVector>],
        tally: &mut Tally,
    ) -> Result<(), PortError> {
        let mut batches = cut(waiting.len(), limits, |at| texts[waiting[at].at].len()).into_iter();
        let mut running = FuturesUnordered::new();
        let mut failure = None;
        loop {
            while failure.is_none() && running.len() < limits.concurrency.max(1) {
                if let Err(error) = must_go_on(progress) {
                    failure = Some(error);
                    break;
                }
                let Some(batch) = batches.next() else { break };
                running.push(self.one_batch(texts, &waiting, batch));
            }
            match running.next().await {
                None => break,
                // The others that run are paid for: they are waited for and kept.
                Some(Err(error)) => failure = Some(failure.unwrap_or(error)),
                Some(Ok((batch, done))) => {
                    *tally += of(&done);
                    for (waiting, vector) in waiting[batch].iter().zip(done.vectors) {
                        found[waiting.at] = Some(vector);
                    }
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// Sends a batch and keeps what comes of it.
    async fn one_batch(
        &self,
        texts: &[&String],
        waiting: &[Waiting],
        batch: Range<usize>,
    ) -> Result<(Range<usize>, Embedded), PortError> {
        let mine = &waiting[batch.clone()];
        let sent: Vec<String> = mine.iter().map(|one| texts[one.at].clone()).collect();
        let done = self.embedder.embed(&sent).await?;
        if let Some(kept) = self.kept.clone() {
            let keys = mine.iter().filter_map(|one| one.key);
            let entries: Vec<_> = keys.zip(done.vectors.iter().cloned()).collect();
            tokio::task::spawn_blocking(move || kept.put(&entries))
                .await
                .map_err(|error| PortError::internal(error.to_string()))??;
        }
        Ok((batch, done))
    }
}

/// Whether there is nothing to be sent.
pub fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}

/// What becomes of a blank text: no provider is asked.
pub fn blank() -> TextVector {
    TextVector::Refused {
        code: "text_empty".to_owned(),
        reason: "the text is empty".to_owned(),
    }
}

fn of(done: &Embedded) -> Tally {
    Tally {
        texts_sent: done.vectors.len() as u64,
        calls: done.calls,
        tokens: done.tokens,
    }
}

fn must_go_on(progress: &Progress) -> Result<(), PortError> {
    if progress.is_cancelled() {
        let text = "the embedding was cancelled";
        return Err(PortError::new(ErrorKind::Timeout, "cancelled", text));
    }
    Ok(())
}

/// The different texts, and for each text which of them it is.
fn different(texts: &[String]) -> (Vec<&String>, Vec<usize>) {
    let mut numbers: HashMap<&String, usize> = HashMap::with_capacity(texts.len());
    let mut different = Vec::new();
    let places = texts.iter().map(|text| {
        *numbers.entry(text).or_insert_with(|| {
            different.push(text);
            different.len() - 1
        })
    });
    let places = places.collect();
    (different, places)
}

/// `count` texts as batches within the limits.
fn cut(count: usize, limits: &EmbedLimits, bytes_of: impl Fn(usize) -> usize) -> Vec<Range<usize>> {
    let mut batches = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for at in 0..count {
        let more = bytes_of(at);
        let full = at - start >= limits.batch_texts.max(1)
            || (at > start && bytes + more > limits.batch_bytes);
        if full {
            batches.push(start..at);
            (start, bytes) = (at, 0);
        }
        bytes += more;
    }
    if start < count {
        batches.push(start..count);
    }
    batches
}

#[cfg(test)]
mod tests {
    use lakehouse_journal::model::catalog::ModelIdentity;
    use parking_lot::Mutex;

    use super::*;
    use crate::engines::embedder::store::VectorStore;

    /// Counts what it is given; fails at a text on demand.
    struct Counting {
        identity: ModelIdentity,
        batches: Mutex<Vec<Vec<String>>>,
        fails_at: Mutex<Option<String>>,
    }

    impl Counting {
        fn new() -> Self {
            Self {
                identity: ModelIdentity {
                    provider: "p".to_owned(),
                    model: "m".to_owned(),
                    version: "m".to_owned(),
                    dimensions: 1,
                },
                batches: Mutex::default(),
                fails_at: Mutex::default(),
            }
        }

        fn sent(&self) -> usize {
            self.batches.lock().iter().map(Vec::len).sum()
        }
    }

    #[async_trait::async_trait]
    impl Embedder for Counting {
        fn identity(&self) -> &ModelIdentity {
            &self.identity
        }

        fn limits(&self) -> EmbedLimits {
            EmbedLimits {
                batch_texts: 10,
                batch_bytes: 1_000,
                concurrency: 2,
                keep: true,
                external: false,
            }
        }

        async fn embed(&self, texts: &[String]) -> Result<Embedded, PortError> {
            let fails = self.fails_at.lock().clone();
            if fails.is_some_and(|word| texts.contains(&word)) {
                let kind = ErrorKind::Unavailable;
                return Err(PortError::new(kind, "embedder_unavailable", "down"));
            }
            self.batches.lock().push(texts.to_vec());
            #[expect(clippy::cast_precision_loss, reason = "short texts")]
            let vectors = texts
                .iter()
                .map(|text| TextVector::Vector(vec![text.len() as f32]));
            Ok(Embedded {
                vectors: vectors.collect(),
                calls: 1,
                tokens: Some(1),
            })
        }
    }

    fn sender(dir: &std::path::Path, embedder: &Arc<Counting>) -> Sender {
        let store = VectorStore::open(dir).unwrap();
        let kept = store.kept("d", &embedder.identity, 0).unwrap();
        Sender {
            embedder: Arc::clone(embedder) as Arc<dyn Embedder>,
            kept: Some(kept),
        }
    }

    #[tokio::test]
    async fn the_same_text_in_five_hundred_rows_is_sent_once() {
        let dir = tempfile::tempdir().unwrap();
        let embedder = Arc::new(Counting::new());
        let sender = sender(dir.path(), &embedder);
        let mut texts = vec!["same".to_owned(); 500];
        texts.push("other one".to_owned());
        texts.push(" \n".to_owned());
        let mut tally = Tally::default();
        let progress = Progress::default();
        let vectors = sender.embed(&texts, &progress, &mut tally).await.unwrap();
        assert_eq!((vectors.len(), &vectors[501]), (502, &blank()));
        assert_eq!(vectors[499], TextVector::Vector(vec![4.0]));
        assert_eq!(vectors[500], TextVector::Vector(vec![9.0]));
        assert_eq!(
            (tally.texts_sent, tally.calls, tally.tokens),
            (2, 1, Some(1))
        );
    }

    #[tokio::test]
    async fn batches_before_a_failure_are_not_paid_for_again() {
        let dir = tempfile::tempdir().unwrap();
        let embedder = Arc::new(Counting::new());
        let texts: Vec<String> = (0..95).map(|n| format!("text {n}")).collect();
        *embedder.fails_at.lock() = Some("text 57".to_owned());
        let progress = Progress::default();
        let mut tally = Tally::default();
        let first = sender(dir.path(), &embedder);
        let error = first
            .embed(&texts, &progress, &mut tally)
            .await
            .unwrap_err();
        assert_eq!(error.code, "embedder_unavailable");
        let before = embedder.sent();
        assert!((50..95).contains(&before), "{before} were sent");
        *embedder.fails_at.lock() = None;
        // As after a restart: only the files are left.
        drop(first);
        let again = sender(dir.path(), &embedder);
        let vectors = again.embed(&texts, &progress, &mut tally).await.unwrap();
        assert_eq!(vectors.len(), 95);
        assert_eq!(embedder.sent(), 95, "no text was sent twice");
    }

    #[tokio::test]
    async fn a_batch_is_no_larger_than_the_limits() {
        let dir = tempfile::tempdir().unwrap();
        let embedder = Arc::new(Counting::new());
        let mut texts: Vec<String> = (0..25).map(|n| format!("{n}")).collect();
        texts.extend((0..3).map(|n| format!("{n}").repeat(600)));
        let sender = sender(dir.path(), &embedder);
        let mut tally = Tally::default();
        sender
            .embed(&texts, &Progress::default(), &mut tally)
            .await
            .unwrap();
        for batch in embedder.batches.lock().iter() {
            assert!(batch.len() <= 10);
            let bytes: usize = batch.iter().map(String::len).sum();
            assert!(bytes <= 1_000 || batch.len() == 1, "{bytes}");
        }
    }

    #[tokio::test]
    async fn a_cancelled_embedding_sends_nothing_more() {
        let dir = tempfile::tempdir().unwrap();
        let embedder = Arc::new(Counting::new());
        let progress = Progress::default();
        progress
            .cancelled
            .store(true, std::sync::atomic::Ordering::Relaxed);
        let sender = sender(dir.path(), &embedder);
        let done = sender
            .embed(&["a".to_owned()], &progress, &mut Tally::default())
            .await;
        assert_eq!(done.unwrap_err().code, "cancelled");
        assert_eq!(embedder.sent(), 0);
    }
}
