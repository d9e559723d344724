use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Wake,
};

use super::*;

use crate::file_slice::FileSlice;

#[tokio::test(start_paused = true)]
async fn a_byte_now_and_then_is_no_progress() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    for (bytes, expected) in [(1, Err(io::ErrorKind::TimedOut)), (120 * 1024, Ok(()))] {
        let mut stream = Stream::new(TcpStream::connect(address).await.unwrap(), Duration::from_secs(120));
        let mut write = async |result: Poll<io::Result<usize>>| {
            let mut result = Some(result);
            std::future::poll_fn(|cx| match stream.timed(cx, result.take().unwrap_or(Poll::Pending)) {
                // What the client does not take meanwhile.
                Poll::Pending => Poll::Ready(Ok(())),
                Poll::Ready(written) => Poll::Ready(written.map(drop).map_err(|error| error.kind())),
            })
            .await
        };
        assert_eq!(write(Poll::Pending).await, Ok(()));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(write(Poll::Pending).await, Ok(()));
        tokio::time::advance(Duration::from_secs(100)).await;
        assert_eq!(write(Poll::Ready(Ok(bytes))).await, Ok(()));
        assert_eq!(write(Poll::Pending).await, Ok(()));
        tokio::time::advance(Duration::from_secs(21)).await;
        assert_eq!(write(Poll::Pending).await, expected, "{bytes}");
        assert_eq!(stream.reset.is_stalled(), expected.is_err());
    }
}

#[tokio::test]
async fn a_placeholder_without_a_part_is_never_written() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let other = SendQueue::new(None);
    let slice = FileSlice { file: Arc::new(tempfile::tempfile().unwrap()), offset: 0, len: 100 };
    let placeholder = other.push(slice, None, false);
    for vectored in [false, true] {
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut theirs = listener.accept().await.unwrap().0;
        let mut stream = Stream::new(tcp, Duration::from_secs(60));
        stream.open_send_queue(None);
        let written = if vectored {
            stream.write_vectored(&[IoSlice::new(b"head"), IoSlice::new(&placeholder)]).await
        } else {
            stream.write(&placeholder).await
        };
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(stream.reset.is_set() && !stream.reset.is_stalled());
        drop(stream);
        let mut arrived = Vec::new();
        assert!(theirs.read_to_end(&mut arrived).await.is_err(), "it is reset");
        assert!(arrived.is_empty());
    }
}

#[tokio::test]
async fn a_placeholder_that_was_copied_breaks_the_connection() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let mut theirs = listener.accept().await.unwrap().0;
    let mut stream = Stream::new(tcp, Duration::from_secs(60));
    let send_queue = stream.open_send_queue(None);
    stream.flush().await.unwrap();
    let file = tempfile::tempfile().unwrap();
    file.set_len(100).unwrap();
    let copy = send_queue.push(FileSlice { file: Arc::new(file), offset: 0, len: 100 }, None, false).to_vec();
    stream.write_all(&copy).await.unwrap();
    assert_eq!(stream.flush().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    drop(stream);
    let mut arrived = Vec::new();
    assert!(theirs.read_to_end(&mut arrived).await.is_err(), "it is reset");
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_turn_ends_until_the_thread_has_seen_its_sockets() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let mut stream = Stream::new(tcp, Duration::from_secs(60));
    let wakes = Arc::new(Wakes::default());
    let waker = wakes.clone().into();
    let mut cx = Context::from_waker(&waker);
    for (burst, yields) in [(BURST - 1, false), (BURST_ALONE, true), (2 * BURST_ALONE, true)] {
        stream.burst = burst;
        assert_eq!(stream.poll_yield(&mut cx).is_pending(), yields, "{burst}");
        assert_eq!(wakes.0.load(Ordering::Relaxed), 0, "{burst}: a wake now would come before the sockets");
        tokio::task::yield_now().await;
        assert_eq!(wakes.0.swap(0, Ordering::Relaxed), usize::from(yields), "{burst}");
        assert!(stream.poll_yield(&mut cx).is_ready(), "{burst}: its next turn begins");
    }
}

#[test]
fn a_connection_that_streams_alone_has_longer_turns() {
    for (burst, is_alone, is_over) in [
        (BURST - 1, false, false),
        (BURST, false, true),
        (BURST, true, false),
        (BURST_ALONE - 1, true, false),
        (BURST_ALONE, true, true),
    ] {
        assert_eq!(is_turn_over(burst, is_alone), is_over, "{burst} {is_alone}");
    }
}
