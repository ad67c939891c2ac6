"""scores, labels, lesions and metadata -> what is evaluated, how well it is told apart, and how sure that is. Pure."""
