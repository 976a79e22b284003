"""medcot: from raw medical chain-of-thought data to a verdict, every number traceable to records."""
