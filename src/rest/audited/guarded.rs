//! An answer that goes on, as long as its token does: when that is taken back or ends, the answer breaks off,
//! also when no row is on its way.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use actix_web::{
    body::{BodySize, BoxBody, MessageBody},
    rt::time::{Interval, interval},
    web,
};
use lakehouse_journal::model::access::Token;

use crate::rest::{Edge, auth};

/// Between two looks at the token of an answer that waits.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The body of an answer that goes on.
pub(super) struct Guarded {
    body: BoxBody,
    edge: web::Data<Edge>,
    token: Arc<Token>,
    look: Interval,
}

impl Guarded {
    pub(super) fn new(body: BoxBody, edge: web::Data<Edge>, token: Arc<Token>) -> Self {
        Self {
            body,
            edge,
            token,
            look: interval(LOOK_EVERY),
        }
    }
}

impl MessageBody for Guarded {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<web::Bytes, Self::Error>>> {
        // Each tick looks anew, and the last poll leaves a waker for the next one.
        while self.look.poll_tick(context).is_ready() {}
        if !auth::is_valid(&self.edge, &self.token) {
            return Poll::Ready(Some(Err("the token has ended".into())));
        }
        Pin::new(&mut self.body).poll_next(context)
    }
}
