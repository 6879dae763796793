"""Programs that stay, a folder for each protocol; what others send goes through the library as commands' inputs do."""
