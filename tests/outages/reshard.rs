//! Every slot of a cluster moves to another node under load.

mod cluster {
    use std::time::Instant;

    use cloakroom_services::Cluster;

    use crate::load::Load;
    use crate::servers::{blocking, redis, two};

    /// Sign-ins move sessions between slots all the while, from and to slots that are on their way.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_full_reshard_loses_nothing_and_revives_nothing() {
        let cluster = blocking(|| Cluster::start().unwrap());
        let load = Load::on(two(async || redis(&cluster.url(), "").await).await).with_visitors(4).start();
        load.answers(1_000).await;
        let begun = Instant::now();
        blocking(|| cluster.reshard().unwrap());
        let took = begun.elapsed();
        load.outage();
        load.back().await;
        let report = load.stop().await;
        let latency = report.latency(begun, begun + took, |_| true);
        eprintln!("{}  resharding took {took:.1?}; {latency:?}", report.text("Cluster, all slots move"));
        assert!(latency.calls > 0, "there was no load during the reshard");
        report.assert_flawless();
    }
}
