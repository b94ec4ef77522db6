"""Pure functions: marginal entropies and marginal values over particles."""
