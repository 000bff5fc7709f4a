//! What attackers try, each as a test named after what it must not achieve.

mod csrf;
mod disclosure;
mod fixation;
mod forgery;
mod lifetime;
mod limits;
mod resurrection;
mod spoofs;
