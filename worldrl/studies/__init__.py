"""Small studies of the estimators and policies: seconds to minutes on one core, a picture and its numbers."""
