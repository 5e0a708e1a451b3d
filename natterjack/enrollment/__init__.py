"""How edges get credentials of their own: invitations, and the registrar that answers them."""
