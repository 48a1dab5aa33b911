//! The people (and the robot) this provider knows.

use serde_json::{Value, json};

/// Somebody who can sign in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persona {
    /// What they are called in [`mint`](super::IdentityProvider::mint) and on the login page's buttons; also their `sub`.
    pub id: String,
    /// Their full name.
    pub name: String,
    /// Their address.
    pub email: String,
    /// The groups they are in.
    pub groups: Vec<String>,
    /// A line about them, for the login page.
    pub about: String,
    /// Whether it is a program: it may use the client credentials grant with its own id.
    pub is_agent: bool,
}

impl Persona {
    /// Somebody of that id and name, in those groups.
    pub fn new(id: &str, name: &str, groups: &[&str]) -> Self {
        Self {
            id: id.into(),
            name: name.into(),
            email: format!("{id}@shop.example"),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            about: String::new(),
            is_agent: false,
        }
    }

    /// With a line about them.
    #[must_use]
    pub fn about(mut self, about: &str) -> Self {
        self.about = about.into();
        self
    }

    /// A program rather than a person.
    #[must_use]
    pub fn agent(mut self) -> Self {
        self.is_agent = true;
        self
    }

    /// The demonstration's three: the agent `ci-agent`, the developer `dana`, the approver `amir`.
    pub fn demo() -> Vec<Self> {
        vec![
            Self::new("ci-agent", "CI agent", &["agents"])
                .agent()
                .about("Deploys the shop, unattended. Works through the gateway only."),
            Self::new("dana", "Dana Developer", &["developers"])
                .about("Writes the shop, and owns the agent. May edit in it."),
            Self::new("amir", "Amir Approver", &["approvers"])
                .about("Runs the platform. Decides what the agent has to ask for."),
        ]
    }

    /// What tokens and the userinfo endpoint say about them.
    pub(super) fn claims(&self) -> Value {
        json!({
            "sub": self.id, "name": self.name, "preferred_username": self.id, "email": self.email, "email_verified": true,
            "groups": self.groups,
        })
    }
}
