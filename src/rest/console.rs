//! The console: one page that asks the REST interface, with the token that the person pastes in.

use actix_web::{HttpResponse, web};

/// `/`
pub fn routes(config: &mut web::ServiceConfig) {
    config.route("/", web::get().to(page));
}

/// The page. Needs no token; it has no data of its own.
#[utoipa::path(get, path = "/", tag = "health", security(()),
    responses((status = 200, description = "HTML", content_type = "text/html")))]
pub async fn page() -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/html; charset=utf-8")
        .insert_header(("content-security-policy", "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'"))
        .insert_header(("x-content-type-options", "nosniff"))
        .body(include_str!("console.html"))
}
