"""Workers in processes of their own, which Ray starts."""
