//! A client that costs next to nothing, as it shares the machine with the daemon that it measures:
//! one connection, one prepared request of which only a number changes, one buffer for the answer.
//! Speaks HTTP/1.1 with `Content-Length` and nothing else.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use memchr::memmem;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::BenchError;

/// Digits of the number in the request.
const DIGITS: usize = 10;
/// Where the number goes in a request's body.
pub(super) const PLACE: &str = "##########";
/// A connection that rested so long is made anew: servers wait for a first request 5 s.
const REST_MAX: Duration = Duration::from_secs(3);
/// A larger answer is not one to this request, in bytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// One kept-alive connection.
pub(super) struct Connection {
    address: SocketAddr,
    stream: TcpStream,
    used: Instant,
    request: Vec<u8>,
    number_at: usize,
    answer: Vec<u8>,
}

impl Connection {
    /// Connects. The body holds [`PLACE`] once.
    pub(super) async fn open(
        address: SocketAddr,
        token: &str,
        method_and_path: &str,
        body: &str,
    ) -> Result<Self, BenchError> {
        let request = format!(
            "{method_and_path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let number_at = request.rfind(PLACE);
        Ok(Self {
            address,
            stream: connect(address).await?,
            used: Instant::now(),
            request: request.into_bytes(),
            number_at: number_at.expect("the body has a place for the number"),
            answer: Vec::with_capacity(16 << 10),
        })
    }

    /// Connects for requests whose bodies differ.
    #[cfg(feature = "lance")]
    pub(super) async fn to(
        address: SocketAddr,
        token: &str,
        method_and_path: &str,
    ) -> Result<Self, BenchError> {
        let mut connection = Self::open(address, token, method_and_path, PLACE).await?;
        let head = memmem::find(&connection.request, b"Content-Length");
        connection
            .request
            .truncate(head.expect("it was just written"));
        connection.number_at = connection.request.len();
        Ok(connection)
    }

    /// Sends a body and returns the answer's, on a connection made by [`Self::to`].
    ///
    /// # Errors
    /// As [`Self::exchange`].
    #[cfg(feature = "lance")]
    pub(super) async fn post(&mut self, body: &str) -> Result<&[u8], BenchError> {
        self.request.truncate(self.number_at);
        let rest = format!("Content-Length: {}\r\n\r\n{body}", body.len());
        self.request.extend_from_slice(rest.as_bytes());
        self.ask().await
    }

    /// Sends the request with this number and returns the answer's body.
    ///
    /// # Errors
    /// `Io` for a broken connection, `Wrong` for any status but 200.
    pub(super) async fn exchange(&mut self, number: u64) -> Result<&[u8], BenchError> {
        let digits = format!("{number:0DIGITS$}");
        let place = self.number_at..self.number_at + DIGITS;
        self.request[place].copy_from_slice(&digits.as_bytes()[digits.len() - DIGITS..]);
        self.ask().await
    }

    async fn ask(&mut self) -> Result<&[u8], BenchError> {
        if self.used.elapsed() > REST_MAX {
            self.stream = connect(self.address).await?;
        }
        self.stream.write_all(&self.request).await?;
        self.answer.clear();
        let head = loop {
            self.read_more().await?;
            if let Some(end) = memmem::find(&self.answer, b"\r\n\r\n") {
                break end + 4;
            }
        };
        let length = content_length(&self.answer[..head]).ok_or_else(|| self.odd())?;
        while self.answer.len() < head + length {
            self.read_more().await?;
        }
        if !self.answer.starts_with(b"HTTP/1.1 200 ") {
            return Err(self.odd());
        }
        self.used = Instant::now();
        Ok(&self.answer[head..])
    }

    async fn read_more(&mut self) -> Result<(), BenchError> {
        let read = self.stream.read_buf(&mut self.answer).await?;
        if read == 0 || self.answer.len() > ANSWER_BYTES_MAX {
            return Err(self.odd());
        }
        Ok(())
    }

    fn odd(&self) -> BenchError {
        let text = String::from_utf8_lossy(&self.answer);
        BenchError::wrong("rest", format!("it answered `{}`", text.trim()))
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, BenchError> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn content_length(head: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(head).ok()?;
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.trim().parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Answers each request in pieces, with the request's last line as the body.
    async fn echo(listener: TcpListener, status: &str) {
        let (mut stream, _) = listener.accept().await.expect("a client comes");
        let mut request = vec![0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut request).await {
            let text = String::from_utf8_lossy(&request[..length]).into_owned();
            let body = text.lines().last().unwrap_or_default();
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n", body.len());
            for piece in [head.as_str(), "x: y\r\n\r\n", &body[..3], &body[3..]] {
                stream.write_all(piece.as_bytes()).await.expect("it reads");
                stream.flush().await.expect("it reads");
                tokio::task::yield_now().await;
            }
        }
    }

    async fn connected(status: &'static str) -> Connection {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        tokio::spawn(echo(listener, status));
        let body = format!("{{\"n\":\"{PLACE}\"}}");
        Connection::open(address, "secret", "PATCH /x", &body)
            .await
            .expect("it listens")
    }

    #[tokio::test]
    async fn every_request_has_its_number_and_gets_its_whole_answer() {
        let mut connection = connected("200 OK").await;
        for (number, body) in [(7, "0000000007"), (123, "0000000123")] {
            let answer = connection.exchange(number).await.expect("an answer");
            let expected = format!("{{\"n\":\"{body}\"}}");
            assert_eq!(answer, expected.as_bytes());
        }
    }

    #[tokio::test]
    async fn a_refusal_is_an_error_that_shows_it() {
        let mut connection = connected("503 Service Unavailable").await;
        let error = connection.exchange(1).await.expect_err("it is a 503");
        assert!(error.to_string().contains("503"), "{error}");
    }
}
