"""From a source to its sessions: what a single run and an agent with several sources share."""
