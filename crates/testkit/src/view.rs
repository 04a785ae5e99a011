use std::future::Future;

use host::view::View;

/// Runs `work` on a runtime whose every thread is in a private view, as a daemon's threads are.
///
/// # Panics
/// When `work` does, or when the view cannot be entered: host tests run as root.
pub fn in_view<F: Future<Output = ()>>(work: impl FnOnce(View) -> F + Send + 'static) {
    with_view(work);
}

/// As [`in_view`], in a host that `change` has changed: it runs in a private mount namespace first.
///
/// # Panics
/// As [`in_view`].
pub fn in_view_after<F: Future<Output = ()>>(
    change: impl FnOnce() + Send + 'static,
    work: impl FnOnce(View) -> F + Send + 'static,
) {
    run(
        || {
            host::view::make_private().expect("a private mount namespace (needs root)");
            change();
        },
        work,
    );
}

/// As [`in_view`], with a result.
///
/// # Panics
/// As [`in_view`].
pub fn with_view<T: Send + 'static, F: Future<Output = T>>(
    work: impl FnOnce(View) -> F + Send + 'static,
) -> T {
    run(|| {}, work)
}

fn run<T: Send + 'static, F: Future<Output = T>>(
    before: impl FnOnce() + Send + 'static,
    work: impl FnOnce(View) -> F + Send + 'static,
) -> T {
    let thread = std::thread::spawn(move || {
        log_to_test_output();
        before();
        // Threads that the runtime starts from here on are in the view, too.
        let view = host::view::enter().expect("enter a private view (host tests need root)");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("runtime");
        runtime.block_on(work(view))
    });
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Log lines at WARN and above go to standard error, so that a failed test tells its story.
fn log_to_test_output() {
    let lines =
        tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(std::io::stderr);
    // Set by an earlier test of this process already: the same.
    drop(lines.try_init());
}
