"""Users with JWTs, the registrar, and invitations of edges."""
