"""The built-in resolver types, one file each. They import `tcpmapkit` only, like anyone else's."""
