//! For whom a session reads: which names there are for them, which classes of columns they see as they
//! are, and how much they are told when something fails. Made by the edge out of a token, or for the
//! daemon's own work; every read path resolves names through it.

use std::collections::BTreeSet;

use lakehouse_journal::model::catalog::{Redaction, Sensitivity};

/// The highest class of columns that a reader sees as they are, and what stands for the others.
#[derive(Debug, Clone, PartialEq)]
pub struct Ceiling {
    /// Columns above it are not shown as they are.
    pub class: Sensitivity,
    /// What is shown instead.
    pub rule: Redaction,
}

/// The names that there are for a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Names {
    /// None at all.
    Nothing,
    /// Every dataset and every view.
    Everything,
    /// These views.
    Views(BTreeSet<String>),
    /// The dataset or view of this name.
    One(String),
}

/// A reader of rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Reader {
    principal: String,
    on_behalf_of: Option<String>,
    names: Names,
    ceiling: Option<Ceiling>,
    guarded: bool,
    /// Whether a dataset's least size of groups does not bind it.
    unbound: bool,
}

impl Reader {
    /// The daemon itself: everything, as it is.
    pub fn daemon() -> Self {
        Self {
            principal: "daemon".to_owned(),
            on_behalf_of: None,
            names: Names::Everything,
            ceiling: None,
            guarded: false,
            unbound: true,
        }
    }

    /// Somebody who may know of no name.
    pub fn nobody(principal: impl Into<String>) -> Self {
        Self {
            principal: principal.into(),
            names: Names::Nothing,
            unbound: false,
            ..Self::daemon()
        }
    }

    /// Somebody who may read every dataset and view, within a ceiling; without one, there is none.
    pub fn of_everything(principal: impl Into<String>, ceiling: Option<Ceiling>) -> Self {
        Self {
            principal: principal.into(),
            unbound: ceiling.is_none(),
            ceiling,
            ..Self::daemon()
        }
    }

    /// An agent: these views and nothing else, behind every gate, and told of failures in fixed words.
    pub fn agent(
        principal: impl Into<String>,
        views: impl IntoIterator<Item = String>,
        ceiling: Ceiling,
    ) -> Self {
        Self {
            principal: principal.into(),
            on_behalf_of: None,
            names: Names::Views(views.into_iter().collect()),
            ceiling: Some(ceiling),
            guarded: true,
            unbound: false,
        }
    }

    /// The same, acting for somebody.
    #[must_use]
    pub fn on_behalf_of(mut self, whom: Option<String>) -> Self {
        self.on_behalf_of = whom;
        self
    }

    /// The same, for these views only.
    #[must_use]
    pub fn only(mut self, views: impl IntoIterator<Item = String>) -> Self {
        self.names = Names::Views(views.into_iter().collect());
        self
    }

    /// The same, for this name only, and only if it was among those before.
    #[must_use]
    pub fn and_only(mut self, name: &str) -> Self {
        self.names = match self.names {
            Names::Everything => Names::One(name.to_owned()),
            Names::One(known) if known == name => Names::One(known),
            Names::Views(views) if views.contains(name) => {
                Names::Views(BTreeSet::from([name.to_owned()]))
            }
            Names::Nothing | Names::One(_) | Names::Views(_) => Names::Nothing,
        };
        self
    }

    /// Whose token it is: `principal()` in a row filter.
    pub fn principal(&self) -> &str {
        &self.principal
    }

    /// For whom it acts: `on_behalf_of()` in a row filter.
    pub fn whom(&self) -> Option<&str> {
        self.on_behalf_of.as_deref()
    }

    /// What it sees of classified columns; nothing limits the daemon.
    pub fn ceiling(&self) -> Option<&Ceiling> {
        self.ceiling.as_ref()
    }

    /// Whether its statements pass every gate and failures are told in fixed words.
    pub fn is_guarded(&self) -> bool {
        self.guarded
    }

    /// Whether a dataset's least size of groups does not bind it; a view's binds everybody.
    pub fn sees_small_groups(&self) -> bool {
        self.unbound
    }

    /// Whether there is a dataset of this name for it, if there is one at all.
    pub fn sees_dataset(&self, name: &str) -> bool {
        match &self.names {
            Names::Everything => true,
            Names::One(known) => known == name,
            Names::Nothing | Names::Views(_) => false,
        }
    }

    /// Whether a view of this name would exist for it.
    pub fn sees_view(&self, name: &str) -> bool {
        match &self.names {
            Names::Nothing => false,
            Names::Everything => true,
            Names::Views(views) => views.contains(name),
            Names::One(known) => known == name,
        }
    }
}
