"""Records, and the page, plots and tables made of them."""
