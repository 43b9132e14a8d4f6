"""What each page costs where there is much: see bench/README.md."""
