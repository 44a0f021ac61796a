"""1:N search of a domain's gallery: the controller, the services it chooses from, and the decision per face."""
