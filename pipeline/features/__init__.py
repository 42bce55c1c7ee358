"""Features: values of a window that ends at the decision session. Nothing here looks forward."""
