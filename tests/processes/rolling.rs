//! Hundreds of visitors, and processes that come and go.

use std::sync::Arc;

use futures_util::future::{join, join_all};
use tokio::sync::{Semaphore, watch};

use crate::balancer::Balancer;
use crate::fleet::{Fleet, Process};
use crate::visitor::{Sent, Visitor};

const PROCESSES: usize = 4;
const VISITORS: usize = 300;
/// How many of them there are between one process's end and the next one's.
const PART: usize = VISITORS / (PROCESSES + 2);
/// How many articles each takes, a few at a time in parallel.
const ARTICLES: usize = 8;
const TABS: usize = 4;
/// How many visitors are busy at once.
const AT_ONCE: usize = 24;
/// Which process ends without being asked.
const KILLED: usize = 2;

/// Three hundred people sign in, fill their carts while every process is replaced, and find in them
/// what they were told is there; those who sign out at one process are signed out at all.
pub(crate) async fn three_hundred_visitors(store: &str) {
    let fleet = Fleet::new(store);
    let mut processes = Vec::new();
    for _ in 0..PROCESSES {
        processes.push(fleet.start().await);
    }
    let balancer = Balancer::before(processes.iter().map(|process| process.address)).await;

    let people = (0..VISITORS).map(|n| Visitor::new(balancer.address, format!("visitor{n}")));
    let signed_in = each(people.collect(), &watch::Sender::new(0), async |mut visitor| {
        visitor.sign_in().await;
        visitor
    })
    .await;

    let (done, replaced) = (watch::Sender::new(0), watch::Sender::new(0));
    let filling = each(signed_in.into_iter().enumerate().collect(), &done, async |(number, visitor)| {
        // Each part but the first two waits for one more process to be replaced, while the part before it
        // is at work: visitors outlast processes.
        let part = number / PART;
        replaced.subscribe().wait_for(|replaced| replaced + 1 >= part).await.unwrap();
        fill(visitor).await
    });
    let (filled, processes) =
        join(filling, replace_all(&fleet, &balancer, processes, done.subscribe(), &replaced)).await;
    let unknown: u64 = filled.iter().map(|(_, told)| told.unknown).sum();
    assert!(unknown <= AT_ONCE as u64 * TABS as u64, "only what the killed process had may be unknown: {unknown}");

    let visitors = each(filled, &watch::Sender::new(0), async |(mut visitor, told)| {
        let count = visitor.count().await.unwrap();
        let Told { acknowledged, unknown } = told;
        assert!(
            (acknowledged..=acknowledged + unknown).contains(&count),
            "{} was told of {acknowledged} articles and of {unknown} nothing, and has {count}",
            visitor.name
        );
        visitor
    })
    .await;

    sign_out_everywhere_at_once(&balancer, visitors).await;
    join_all(processes.into_iter().map(Process::stop)).await;
}

/// What a visitor was told about the articles that were taken.
#[derive(Clone, Copy, Default)]
struct Told {
    acknowledged: u64,
    unknown: u64,
}

/// Takes all articles, in several tabs at a time, and looks at the cart in between.
async fn fill(mut visitor: Visitor) -> (Visitor, Told) {
    let mut told = Told::default();
    for _ in 0..ARTICLES / TABS {
        let mut tabs = vec![visitor.clone(); TABS];
        for sent in join_all(tabs.iter_mut().map(Visitor::add)).await {
            match sent {
                Sent::Acknowledged => told.acknowledged += 1,
                Sent::Unknown => told.unknown += 1,
            }
        }
        let count = visitor.count().await;
        assert!(count.is_none_or(|count| count >= told.acknowledged), "an article is gone again");
    }
    (visitor, told)
}

/// Replaces one process after the other, each when a part of the visitors has done.
async fn replace_all(
    fleet: &Fleet,
    balancer: &Balancer,
    processes: Vec<Process>,
    mut done: watch::Receiver<usize>,
    replaced: &watch::Sender<usize>,
) -> Vec<Process> {
    let mut fresh = Vec::new();
    for (number, process) in processes.into_iter().enumerate() {
        done.wait_for(|done| *done >= (number + 1) * PART).await.unwrap();
        if number == KILLED {
            process.kill().await;
        } else {
            balancer.drain(number).await;
            process.stop().await;
        }
        fresh.push(fleet.start().await);
        balancer.replace(number, fresh[number].address);
        replaced.send_replace(number + 1);
    }
    fresh
}

async fn sign_out_everywhere_at_once(balancer: &Balancer, visitors: Vec<Visitor>) {
    for (n, visitor) in visitors.into_iter().take(10 * PROCESSES).enumerate() {
        let mut copies: Vec<_> = (0..PROCESSES).map(|number| visitor.at(balancer.process(number))).collect();
        assert!(join_all(copies.iter_mut().map(Visitor::is_signed_in)).await.iter().all(|signed_in| *signed_in));
        visitor.at(balancer.process(n % PROCESSES)).sign_out().await;
        let after = join_all(copies.iter_mut().map(Visitor::is_signed_in)).await;
        assert_eq!(after, [false; PROCESSES], "{} signed out at process {}", visitor.name, n % PROCESSES);
    }
}

/// Has everybody do this, a number of them at once, and counts who is done.
async fn each<T: Send + 'static, R: Send + 'static, F>(
    people: Vec<T>,
    done: &watch::Sender<usize>,
    work: impl Fn(T) -> F,
) -> Vec<R>
where
    F: Future<Output = R>,
{
    let busy = Arc::new(Semaphore::new(AT_ONCE));
    join_all(people.into_iter().map(|one| {
        let (busy, work) = (&busy, &work);
        async move {
            let _turn = busy.acquire().await.unwrap();
            let result = work(one).await;
            done.send_modify(|done| *done += 1);
            result
        }
    }))
    .await
}
