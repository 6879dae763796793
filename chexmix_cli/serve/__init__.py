"""Programs that stay, one folder a protocol: what others send goes through the library as the commands' inputs do."""
