"""Taking a person out of every place that knows them, and giving them what is held about them."""
