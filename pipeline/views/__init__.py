"""What a view is: recipe, plan, and the photometrics that execute it."""
