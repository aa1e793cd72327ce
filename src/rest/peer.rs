//! Whether the client is still there: actix tells a handler only when it writes. A query that
//! nobody waits for any more is cancelled, so its connection is looked at while it runs.

use std::{
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use actix_web::{HttpRequest, dev::Extensions};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A second handle on the connection of a request.
#[derive(Clone)]
pub struct Peer(Arc<OwnedFd>);

/// Keeps a handle on each new connection; given to `HttpServer::on_connect`.
pub fn remember(connection: &dyn std::any::Any, data: &mut Extensions) {
    if let Some(stream) = connection.downcast_ref::<actix_web::rt::net::TcpStream>() {
        use std::os::fd::AsFd;
        if let Ok(second) = stream.as_fd().try_clone_to_owned() {
            data.insert(Peer(Arc::new(second)));
        }
    }
}

/// Ends when the client of this request has hung up; never, when that cannot be seen.
pub async fn gone(request: &HttpRequest) {
    let Some(peer) = request.conn_data::<Peer>().cloned() else {
        return std::future::pending().await;
    };
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if has_hung_up(&peer.0) {
            return;
        }
    }
}

fn has_hung_up(connection: &OwnedFd) -> bool {
    let mut look = libc::pollfd {
        fd: connection.as_raw_fd(),
        events: libc::POLLRDHUP,
        revents: 0,
    };
    // SAFETY: `look` is one valid pollfd for the length of the call, and the descriptor is open as
    // long as its owner is borrowed; a timeout of 0 never blocks.
    #[expect(unsafe_code, reason = "the standard library has no poll")]
    let ready = unsafe { libc::poll(&raw mut look, 1, 0) };
    ready > 0 && look.revents & (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) != 0
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read,
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[test]
    fn a_client_that_hangs_up_is_seen() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        let (mut server, _) = listener.accept().expect("accepted");
        let handle = OwnedFd::from(server.try_clone().expect("a second handle"));
        assert!(!has_hung_up(&handle));
        drop(client);
        assert_eq!(server.read(&mut [0]).expect("the end"), 0);
        assert!(has_hung_up(&handle));
    }
}
