"""Reading tables and images."""
