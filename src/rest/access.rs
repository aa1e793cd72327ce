//! Tokens: given out once, listed without their secrets, taken back at once.

use actix_web::{HttpResponse, web};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use lakehouse_journal::model::{
    Event, ModelError,
    access::{AccessCommand, Grants, Role, TokenLimits},
    catalog::CatalogState,
    event::AccessEvent,
};
use rand::{TryRngCore, rngs::OsRng};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Edge,
    auth::{Administer, May},
    body::Body,
    problem::Problem,
    times,
};

/// `/auth/tokens…`
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .service(
            web::resource("/auth/tokens")
                .route(web::post().to(issue))
                .route(web::get().to(list)),
        )
        .route("/auth/tokens/{id}", web::delete().to(revoke));
}

/// A token that is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    name: String,
    role: Role,
    #[serde(default)]
    views: Vec<String>,
    #[serde(default)]
    tools: Vec<String>,
    profile: Option<String>,
    expires_at: Option<String>,
    limits: Option<TokenLimits>,
}

impl NewToken {
    /// Views and tools of a profile as it is now, where none are asked for. A later change of the profile
    /// changes no token.
    fn take_from(&mut self, state: &CatalogState, id: &str) -> Result<(), Problem> {
        let profile = state.profile(id)?;
        if self.role != Role::Agent {
            let reason = "only a token of the role `agent` is bound to a profile".to_owned();
            let what = "profile";
            return Err(ModelError::Impossible { what, reason }.into());
        }
        if self.views.is_empty() {
            let views = profile.views.iter();
            let views = views.filter(|name| state.views.contains_key(*name));
            self.views = views.cloned().collect();
        }
        if self.tools.is_empty() {
            self.tools.clone_from(&profile.tools);
        }
        Ok(())
    }
}

/// A new secret: 256 random bits.
///
/// # Errors
/// 500 when the system has no randomness.
pub fn new_secret() -> Result<String, Problem> {
    let mut bytes = [0_u8; 32];
    OsRng
        .try_fill_bytes(&mut bytes)
        .map_err(|error| Problem::internal(&error))?;
    Ok(format!("lh_{}", BASE64_URL_SAFE_NO_PAD.encode(bytes)))
}

/// Gives out a token. The secret is in this answer and nowhere else.
#[utoipa::path(post, path = "/auth/tokens", tag = "access",
    responses((status = 201, description = "{id, name, role, secret, journal_seq}"),
        (status = 409, body = Problem), (status = 422, body = Problem)))]
pub async fn issue(
    edge: web::Data<Edge>,
    may: May<Administer>,
    body: Body<NewToken>,
) -> Result<HttpResponse, Problem> {
    let caller = may.caller(&body.bytes);
    let mut asked = body.value;
    if let Some(id) = asked.profile.take() {
        asked.take_from(&edge.lake.catalog().state, &id)?;
    }
    let secret = new_secret()?;
    let command = AccessCommand::IssueToken {
        name: asked.name.clone(),
        role: asked.role,
        secret_hash: edge.tokens.of(&secret),
        expires_at: asked.expires_at.as_deref().map(times::parse).transpose()?,
        grants: Grants {
            views: asked.views,
            tools: asked.tools,
            limits: asked.limits,
        },
    };
    let committed = edge.lake.ask_access(command, caller).await?;
    let id = committed.events.first().and_then(|event| match event {
        Event::Access(AccessEvent::TokenIssued(issued)) => Some(issued.id.clone()),
        _ => None,
    });
    // The first answer had the secret; it is kept nowhere, so a repeated request cannot show it.
    let secret = (!committed.repeated).then_some(secret);
    Ok(HttpResponse::Created().json(json!({
        "id": id,
        "name": asked.name,
        "role": asked.role,
        "secret": secret,
        "journal_seq": committed.seq,
    })))
}

/// Every token, without secrets.
#[utoipa::path(get, path = "/auth/tokens", tag = "access",
    responses((status = 200, description = "{items: [{id, name, role, …}], next: null}")))]
pub async fn list(edge: web::Data<Edge>, _: May<Administer>) -> HttpResponse {
    let access = edge.lake.access();
    let tokens: Vec<Value> = access
        .state
        .tokens
        .values()
        .map(|token| {
            json!({
                "id": token.id,
                "name": token.name,
                "role": token.role,
                "issued_at": times::text(token.issued_at),
                "expires_at": times::maybe(token.expires_at),
                "revoked_at": times::maybe(token.revoked_at),
                "views": token.views,
                "tools": token.tools,
                "limits": token.limits,
            })
        })
        .collect();
    HttpResponse::Ok().json(json!({ "items": tokens, "next": null }))
}

/// Takes a token back; it is dead with this answer.
#[utoipa::path(delete, path = "/auth/tokens/{id}", tag = "access", params(("id" = String, Path)),
    responses((status = 200, description = "{id, journal_seq}"), (status = 404, body = Problem)))]
pub async fn revoke(
    edge: web::Data<Edge>,
    may: May<Administer>,
    id: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let command = AccessCommand::RevokeToken { id: id.to_string() };
    let committed = edge.lake.ask_access(command, may.caller(&[])).await?;
    Ok(HttpResponse::Ok().json(json!({ "id": *id, "journal_seq": committed.seq })))
}
