//! What a caller can read, described: each view or dataset with its columns and what they mean.

use rmcp::model::{Resource, ResourceContents};

use crate::rest::{
    Edge,
    audited::Told,
    auth::{Ask, May},
    problem::Problem,
    readable,
};

/// What the addresses begin with; the name of the table follows.
const TABLES: &str = "lakehouse://tables/";
const JSON: &str = "application/json";

/// Every table of a caller.
pub(super) fn list(edge: &Edge, may: &May<Ask>) -> Result<Vec<Resource>, Problem> {
    let tables = readable::tables(edge, may)?;
    Ok(tables
        .iter()
        .map(|table| {
            let mut resource = Resource::new(format!("{TABLES}{}", table.name), table.name.clone())
                .with_mime_type(JSON);
            if let Some(description) = &table.description {
                resource = resource.with_description(description.clone());
            }
            resource
        })
        .collect())
}

/// One table. Returns what is to be told with the answer.
pub(super) fn read(
    edge: &Edge,
    may: &May<Ask>,
    uri: &str,
) -> (Told, Result<ResourceContents, Problem>) {
    let mut told = Told {
        action: "resources/read",
        ..Told::default()
    };
    let tables = match readable::tables(edge, may) {
        Ok(tables) => tables,
        Err(problem) => return (told, Err(problem)),
    };
    let name = uri.strip_prefix(TABLES);
    let Some(table) = tables
        .iter()
        .find(|table| Some(table.name.as_str()) == name)
    else {
        return (told, Err(Problem::not_found("resource", uri)));
    };
    told.objects = vec![table.name.clone()];
    let text = serde_json::to_string_pretty(table);
    let contents = text
        .map(|text| ResourceContents::text(text, uri).with_mime_type(JSON))
        .map_err(|error| Problem::internal(&error));
    (told, contents)
}
