//! Events of views: policies, kept whole.

use serde::{Deserialize, Serialize};

use crate::model::catalog::ViewSpec;

/// A view came to be, or became another one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ViewDefined {
    /// Its name.
    pub view: String,
    /// What it is from here on.
    pub spec: ViewSpec,
}

/// A view is gone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ViewDropped {
    /// The view.
    pub view: String,
}
