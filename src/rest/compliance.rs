//! What an auditor needs: the key that receipts of erasures verify under.

use actix_web::{HttpResponse, web};
use serde_json::json;

use super::{
    Edge,
    auth::{May, ReadCatalog},
    problem::Problem,
    times,
};
use crate::engines::receipts::ALGORITHM;

/// `/compliance/…`
pub fn routes(config: &mut web::ServiceConfig) {
    config.route("/compliance/key", web::get().to(key));
}

/// The public key of this lakehouse's receipts; compare it with the one in a receipt.
#[utoipa::path(get, path = "/compliance/key", tag = "compliance",
    responses((status = 200, description = "{algorithm, public_key, key_id, created_at?}"),
        (status = 401, body = Problem)))]
pub async fn key(edge: web::Data<Edge>, _: May<ReadCatalog>) -> HttpResponse {
    let public = edge.receipts.public_key();
    let mut shown = json!({
        "algorithm": ALGORITHM,
        "public_key": public.hex,
        "key_id": public.key_id,
    });
    if let Some(created_at) = times::maybe(edge.receipts.created_at()) {
        shown["created_at"] = created_at.into();
    }
    HttpResponse::Ok().json(shown)
}
