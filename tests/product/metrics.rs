//! The metrics of all roles, as Prometheus reads them.

use std::sync::atomic::{AtomicBool, Ordering};

use testkit::SetOnDrop;

use crate::harness::Product;
use crate::text_client::TextClient;

#[test]
fn every_role_has_metrics_that_prometheus_reads() {
    let product = Product::start();
    let ada = product.add_user("ada@example.org");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for client in 0..4 {
            let (product, ada, done) = (&product, &ada, &done);
            scope.spawn(move || {
                let mut text = TextClient::log_in(product.endpoint(), ada);
                while !done.load(Ordering::Relaxed) {
                    assert_eq!(text.set(&format!("key{client}"), b"value"), "STORED");
                    assert!(text.get(&format!("key{client}")).unwrap().is_some());
                }
            });
        }
        let _done = SetOnDrop(&done);
        for health in product.health() {
            (0..3).for_each(|_| testkit::check_metrics(health));
        }
    });
}
