"""``tcpmapkit bench``: an administrator's own keys asked of his own maps, and what that took."""
