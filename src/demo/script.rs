//! The narration: numbered steps, what each one showed, and how long it took.
//! The steps call it; it knows nothing of what they do.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::output;

/// Steps of the whole job.
const STEPS: usize = 14;

/// What is told, and the time of each step.
#[derive(Debug)]
pub(super) struct Script {
    began: Instant,
    step_began: Instant,
    steps: Vec<(String, Duration)>,
    open: Option<String>,
}

impl Script {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            began: now,
            step_began: now,
            steps: Vec::new(),
            open: None,
        }
    }

    /// Begins the next step; the one before it has ended.
    pub(super) fn begin(&mut self, title: &str) {
        let number = self.steps.len() + 1;
        println!("\n[{number}/{STEPS}] {title}");
        self.open = Some(title.to_owned());
        self.step_began = Instant::now();
    }

    /// Ends the step with what it showed.
    pub(super) fn end(&mut self, showed: &str) {
        let took = self.step_began.elapsed();
        say(&format!("✔ {showed} ({})", output::duration(took)));
        if let Some(title) = self.open.take() {
            self.steps.push((title, took));
        }
    }

    /// The table of steps and times.
    pub(super) fn closing(&self) {
        let rows: Vec<Vec<String>> = self
            .steps
            .iter()
            .chain([&("all of it".to_owned(), self.began.elapsed())])
            .map(|(title, took)| vec![title.clone(), seconds(*took)])
            .collect();
        println!("\n{}", output::table(&["step", "seconds"], &rows));
    }
}

/// Lines within a step.
pub(super) fn say(text: &str) {
    for line in text.lines() {
        println!("    {line}");
    }
}

/// A bar for a known amount, or a spinner; drawn on standard error, and only for a person.
pub(super) fn bar(total: Option<u64>, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).expect("the template is one of the demo's");
    let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    bar.with_style(style)
}

fn seconds(time: Duration) -> String {
    format!("{}.{:02}", time.as_secs(), time.subsec_millis() / 10)
}
