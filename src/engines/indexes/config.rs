//! Settings of an index as the engines take them. A setting that an engine does not have is refused,
//! never ignored. The edge asks when an index is defined, the builder when it is built.

use lakehouse_actors::PortError;
use lakehouse_journal::model::{
    ErrorKind,
    catalog::{Backend, IndexConfig},
};

use crate::engines::{
    lance::{LanceConfig, LanceKind},
    vectors::{HnswConfig, Metric, Quantization},
};

/// Checks a configuration for an engine and vectors of these dimensions.
///
/// # Errors
/// `Unprocessable` with the field.
pub fn check_config(
    backend: Backend,
    config: &IndexConfig,
    dimensions: usize,
) -> Result<(), PortError> {
    match backend {
        Backend::Hnsw => hnsw_config(config).map(|_| ()),
        Backend::Lance if !cfg!(feature = "lance") => Err(refused(
            "this build has no Lance: `backend` can be `hnsw` alone",
        )),
        Backend::Lance => lance_config(config)?
            .validate(dimensions)
            .map_err(|error| refused(error.to_string())),
    }
}

fn refused(text: impl Into<String>) -> PortError {
    PortError::new(ErrorKind::Unprocessable, "bad_config", text.into())
}

/// The distance of an index.
///
/// # Errors
/// `Unprocessable` for one that there is not.
pub(super) fn metric(config: &IndexConfig) -> Result<Metric, PortError> {
    match config.metric.as_deref() {
        None => Ok(Metric::default()),
        Some("cosine") => Ok(Metric::Cosine),
        Some("dot") => Ok(Metric::Dot),
        Some("l2") => Ok(Metric::L2),
        Some(other) => Err(refused(format!("`{other}` is none of cosine, dot, l2"))),
    }
}

/// The engine's settings out of an index's; refuses what it does not have.
///
/// # Errors
/// `Unprocessable` with the field.
pub fn hnsw_config(config: &IndexConfig) -> Result<HnswConfig, PortError> {
    let foreign = [
        ("kind", config.kind.is_some()),
        ("partitions", config.partitions.is_some()),
        ("sub_vectors", config.sub_vectors.is_some()),
        ("nprobes", config.nprobes.is_some()),
        ("refine_factor", config.refine_factor.is_some()),
    ];
    refuse_foreign("hnsw", &foreign)?;
    let mut hnsw = HnswConfig {
        metric: metric(config)?,
        ..HnswConfig::default()
    };
    if let Some(value) = config.connectivity {
        hnsw.connectivity = value as usize;
    }
    if let Some(value) = config.ef_construction {
        hnsw.expansion_add = value as usize;
    }
    if let Some(value) = config.ef_search {
        hnsw.expansion_search = value as usize;
    }
    if let Some(value) = &config.quantization {
        hnsw.quantization = match value.as_str() {
            "f32" => Quantization::F32,
            "f16" => Quantization::F16,
            "bf16" => Quantization::Bf16,
            "i8" => Quantization::I8,
            other => return Err(refused(format!("`{other}` is none of f32, f16, bf16, i8"))),
        };
    }
    hnsw.validate()
        .map_err(|error| refused(error.to_string()))?;
    Ok(hnsw)
}

/// An engine's settings as an index has them, every one named; `ef` candidates are looked at.
pub(super) fn described(hnsw: &HnswConfig, ef: usize) -> IndexConfig {
    let number = |value: usize| u32::try_from(value).ok();
    let quantization = match hnsw.quantization {
        Quantization::F32 => "f32",
        Quantization::F16 => "f16",
        Quantization::Bf16 => "bf16",
        Quantization::I8 => "i8",
    };
    let metric = match hnsw.metric {
        Metric::Cosine => None,
        Metric::Dot => Some("dot"),
        Metric::L2 => Some("l2"),
    };
    IndexConfig {
        connectivity: number(hnsw.connectivity),
        ef_construction: number(hnsw.expansion_add),
        ef_search: number(ef),
        quantization: Some(quantization.to_owned()),
        metric: metric.map(str::to_owned),
        ..IndexConfig::default()
    }
}

/// Lance's settings out of an index's.
///
/// # Errors
/// `Unprocessable` with the field.
pub(super) fn lance_config(config: &IndexConfig) -> Result<LanceConfig, PortError> {
    refuse_foreign("lance", &[("quantization", config.quantization.is_some())])?;
    let size = |value: Option<u32>| value.map(|value| value as usize);
    let default = LanceConfig::default();
    let kind = match config.kind.as_deref() {
        None | Some("auto") => LanceKind::Auto,
        Some("flat") => LanceKind::Flat,
        Some("ivf_pq") => LanceKind::IvfPq,
        Some("ivf_hnsw_sq") => LanceKind::IvfHnswSq,
        Some(other) => {
            let text = format!("`{other}` is none of auto, flat, ivf_pq, ivf_hnsw_sq");
            return Err(refused(text));
        }
    };
    Ok(LanceConfig {
        kind,
        metric: metric(config)?,
        partitions: size(config.partitions),
        connectivity: size(config.connectivity).unwrap_or(default.connectivity),
        ef_construction: size(config.ef_construction).unwrap_or(default.ef_construction),
        sub_vectors: size(config.sub_vectors),
        nprobes: size(config.nprobes).unwrap_or(default.nprobes),
        ef_search: size(config.ef_search).unwrap_or(default.ef_search),
        refine_factor: size(config.refine_factor),
    })
}

fn refuse_foreign(backend: &str, settings: &[(&str, bool)]) -> Result<(), PortError> {
    match settings.iter().find(|(_, is_set)| *is_set) {
        None => Ok(()),
        Some((name, _)) => Err(refused(format!("`{name}` is no setting of `{backend}`"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_of_the_other_engine_is_refused_by_name() {
        let kind = IndexConfig {
            kind: Some("flat".to_owned()),
            ..IndexConfig::default()
        };
        let refused = check_config(Backend::Hnsw, &kind, 8).unwrap_err();
        assert!(
            refused.message.contains("`kind` is no setting of `hnsw`"),
            "{refused}"
        );
    }

    #[test]
    fn lance_takes_its_kinds_and_refuses_others() {
        let of = |kind: &str| IndexConfig {
            kind: Some(kind.to_owned()),
            ..IndexConfig::default()
        };
        for kind in ["auto", "flat", "ivf_pq", "ivf_hnsw_sq"] {
            check_config(Backend::Lance, &of(kind), 8).unwrap();
        }
        assert!(check_config(Backend::Lance, &of("hnsw"), 8).is_err());
        let quantized = IndexConfig {
            quantization: Some("i8".to_owned()),
            ..IndexConfig::default()
        };
        assert!(check_config(Backend::Lance, &quantized, 8).is_err());
    }
}
